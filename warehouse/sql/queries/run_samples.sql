-- Purpose: raw repeats of a run, warm-up included.
-- Grain: one repeat of one metric.
-- Parameters: $run_id.
SELECT metric, sample_index, sample_phase, value, unit, flags
FROM samples
WHERE run_id = $run_id::VARCHAR
ORDER BY metric, sample_index
