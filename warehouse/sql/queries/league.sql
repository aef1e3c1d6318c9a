-- Purpose: the league: every contender on every board, pooled over the held-out parts of its split; the newest scores of each.
-- Grain: one board, split and contender.
-- Parameters: $population, the key of a board, NULL for all; $fold, NULL for the pooled score.
SELECT
    predictors.population AS board, predictors.target, predictors.metric, predictor_scores.split, predictor_scores.fold,
    predictors.method AS contender, predictors.name, predictors.is_baseline, predictors.source_id, predictors.artifact, predictors.trained_at,
    predictor_scores.* EXCLUDE (predictor_id, split, fold, file_hash)
FROM predictor_scores
JOIN predictors USING (predictor_id)
WHERE predictors.target IS NOT NULL
    AND ($population::VARCHAR IS NULL OR predictors.population = $population::VARCHAR)
    AND predictor_scores.fold = coalesce($fold::VARCHAR, 'all')
    AND predictors.predictor_id IN (
        SELECT max_by(predictor_id, trained_at) FROM predictors GROUP BY target, population, method, is_baseline
    )
ORDER BY board, predictors.target, predictor_scores.split, predictors.is_baseline, contender
