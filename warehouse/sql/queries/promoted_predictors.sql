-- Purpose: the predictor that answers, of every target: the one promoted last, or taken back to.
-- Grain: one target.
SELECT DISTINCT ON (promotions.target)
    promotions.target, predictors.predictor_id, predictors.metric, predictors.name, predictors.method, predictors.artifact,
    predictors.snapshot_id, predictors.trained_at, predictors.num_rows, predictors.llm_ids, predictors.hardware_ids, predictors.features,
    promotions.promoted_at, promotions.reason, promotions.is_rollback
FROM promotions
JOIN predictors USING (predictor_id)
ORDER BY promotions.target, promotions.promoted_at DESC
