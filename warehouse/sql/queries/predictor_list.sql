-- Purpose: trained predictors.
-- Grain: one predictor.
-- Parameters: none.
SELECT *
FROM predictors
ORDER BY trained_at DESC, metric, is_baseline, name
