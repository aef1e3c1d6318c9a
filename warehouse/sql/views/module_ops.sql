-- Purpose: operators and modules without the kernels below them, which another pass timed: what sums run over.
-- Grain: one operator or module of a run.
SELECT * FROM ops WHERE level IS DISTINCT FROM 'kernel'
