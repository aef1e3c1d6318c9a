-- Purpose: what predictors said of configurations, with interval and predictor: the saved answers of `rooflake predict`.
-- Grain: one predicted run and metric.
SELECT
    runs.run_id, runs.config_id, runs.llm_id, runs.hardware_id, runs.num_devices, runs.tensor_parallel, runs.pipeline_parallel, runs.phase,
    runs.batch_size, runs.input_tokens, runs.output_tokens, runs.context_tokens, runs.concurrency, runs.weight_dtype, runs.activation_dtype,
    runs.attention, runs.framework, runs.execution, predictions.metric, predictions.value, predictions.lower, predictions.upper,
    predictions.is_supported, predictions.predictor_id, predictors.target, predictors.snapshot_id, runs.collected_at AS predicted_at
FROM predictions
JOIN runs USING (run_id)
LEFT JOIN predictors USING (predictor_id)
WHERE predictions.split = 'final' AND runs.source_kind = 'predicted'
