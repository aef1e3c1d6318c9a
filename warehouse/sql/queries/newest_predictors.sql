-- Purpose: the artifact to answer with, one per predicted metric: the one trained last.
-- Grain: one metric.
SELECT DISTINCT ON (metric)
    predictor_id, metric, name, method, artifact, snapshot_id, trained_at, num_rows, llm_ids, hardware_ids, features
FROM predictors
WHERE NOT is_baseline AND target IS NULL
ORDER BY metric, trained_at DESC
