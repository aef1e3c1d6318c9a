-- Purpose: how far off each predictor is, leave-out and random splits together; of one trained again, the newest only. A predictor
--   that others published names its source.
-- Grain: one predictor, split and fold.
-- Parameters: $metric, NULL for every metric; $fold, `all` for the pooled score, NULL for every fold.
SELECT
    predictors.name, predictors.metric, predictors.target, predictors.population, predictors.method, predictors.is_baseline, predictors.source_id, predictors.trained_at,
    predictors.snapshot_id,
    predictor_scores.*
FROM predictor_scores
JOIN predictors USING (predictor_id)
WHERE ($metric::VARCHAR IS NULL OR predictors.metric = $metric::VARCHAR)
    AND ($fold::VARCHAR IS NULL OR predictor_scores.fold = $fold::VARCHAR)
    AND predictors.predictor_id IN (
        SELECT max_by(predictor_id, trained_at) FROM predictors GROUP BY name, metric, method, population
    )
ORDER BY predictors.metric, predictor_scores.split <> 'leave_model_out', predictor_scores.split <> 'random', predictor_scores.split, predictors.is_baseline, predictors.name, fold
