-- Purpose: published forecasts, the newest first, with the median of what was measured of their configuration afterwards.
-- Grain: one forecast.
-- Parameters: none.
WITH met AS (
    SELECT forecast_id, count(actual) AS num_actual, median(actual) AS actual, max(actual_at) AS actual_at
    FROM forecast_scores
    GROUP BY forecast_id
)
SELECT
    forecasts.forecast_id, forecasts.published_at, forecasts.metric, forecasts.value, forecasts.lower, forecasts.upper, forecasts.note,
    forecasts.predictor_id, forecasts.snapshot_id, forecasts.run_id, predictors.target,
    concat_ws(
        ', ',
        runs.phase || ' of ' || runs.llm_id || ' on ' || CASE WHEN runs.num_devices > 1 THEN runs.num_devices || ' x ' ELSE '' END || runs.hardware_id,
        'batch ' || runs.batch_size,
        runs.concurrency || ' in flight',
        coalesce(runs.input_tokens, runs.context_tokens) || ' tokens'
    ) AS label,
    met.num_actual, met.actual, met.actual_at,
    met.actual BETWEEN forecasts.lower AND forecasts.upper AS is_covered
FROM forecasts
JOIN met USING (forecast_id)
LEFT JOIN runs USING (run_id)
LEFT JOIN predictors USING (predictor_id)
ORDER BY forecasts.published_at DESC, label, forecasts.metric
