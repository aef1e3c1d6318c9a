-- Purpose: predicted against actual, every row predicted by a model that has not seen it.
-- Grain: one predictor, split, run and metric.
-- Parameters: $predictor_id, NULL for every predictor; $metric, $split, NULL for any.
SELECT
    predictions.*, predictors.name AS predictor_name, predictors.is_baseline, comparable.llm_id, comparable.llm_name, comparable.device,
    comparable.phase, comparable.batch, comparable.tokens, comparable.source_kind,
    predictions.value / nullif(predictions.actual, 0) AS ratio,
    predictions.actual BETWEEN predictions.lower AND predictions.upper AS is_covered
FROM predictions
JOIN predictors USING (predictor_id)
LEFT JOIN comparable USING (run_id)
WHERE ($predictor_id::VARCHAR IS NULL OR predictions.predictor_id = $predictor_id::VARCHAR)
    AND ($metric::VARCHAR IS NULL OR predictions.metric = $metric::VARCHAR)
    AND ($split::VARCHAR IS NULL OR predictions.split = $split::VARCHAR)
ORDER BY predictions.run_id
LIMIT 5000
