-- Purpose: scores of predictors that a family of sources publishes.
-- Grain: one score.
-- Parameters: $family.
SELECT predictors.source_id, predictor_id, predictors.name, predictors.metric, scores.mae, scores.rmse, scores.r2
FROM predictors
JOIN predictor_scores AS scores USING (predictor_id)
WHERE split_part(predictors.source_id, '/', 1) = $family::VARCHAR
ORDER BY predictor_id, scores.split, scores.fold
