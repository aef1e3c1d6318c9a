-- Purpose: scores of what a run's model answered.
-- Grain: one task and metric.
-- Parameters: $run_id.
SELECT task, metric, value, stderr, is_higher_better, num_samples, num_fewshot
FROM quality
WHERE run_id = $run_id::VARCHAR
ORDER BY task, metric
