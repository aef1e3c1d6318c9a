-- Purpose: predicted against actual, every row predicted by a model that has not seen it; newest predictors only.
-- Grain: one predictor, split, run and metric.
-- Parameters: $metric, $split, NULL for any.
SELECT
    predictions.*, predictors.name AS predictor_name, predictors.is_baseline, comparable.llm_id, comparable.llm_name, comparable.device,
    comparable.phase, comparable.batch, comparable.tokens, comparable.source_kind,
    predictions.value / nullif(predictions.actual, 0) AS ratio,
    predictions.actual BETWEEN predictions.lower AND predictions.upper AS is_covered
FROM predictions
JOIN predictors USING (predictor_id)
LEFT JOIN comparable USING (run_id)
WHERE predictions.predictor_id IN (SELECT max_by(predictor_id, trained_at) FROM predictors GROUP BY name, metric, method)
    AND predictions.actual IS NOT NULL
    AND ($metric::VARCHAR IS NULL OR predictions.metric = $metric::VARCHAR)
    AND ($split::VARCHAR IS NULL OR predictions.split = $split::VARCHAR)
ORDER BY predictions.run_id
LIMIT 5000
