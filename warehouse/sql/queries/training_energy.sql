-- Purpose: what predictors of energy learn from: runs whose energy was read from the device's counters, beside the analytical row of the
--   same configuration and the shape of its LLM. Energy is of all devices together, over output tokens.
-- Grain: one measured or published run; analytical columns (no prefix) are NULL where no analytical row of ruleset `default` is loaded.
--   Of several engine revisions the newest row counts.
-- Parameters: $phases, a list of phases; $source, a prefix of source ids, NULL for all.
SELECT
    measured.run_id, measured.config_id, measured.source_id, measured.source_kind, measured.collector, measured.llm_id, measured.hardware_id,
    measured.num_devices, measured.tensor_parallel, measured.pipeline_parallel, measured.phase, measured.task, measured.batch_size,
    measured.input_tokens, measured.output_tokens, measured.context_tokens, measured.weight_dtype, measured.activation_dtype,
    measured.kv_dtype, measured.attention, measured.execution, measured.cache_implementation, measured.framework,
    measured.framework_version, measured.optimizations::VARCHAR AS optimizations,
    measured.metric_definitions['energy_per_output_token_j'] AS energy_definition,
    measured.energy_per_output_token_j AS measured_energy_per_output_token_j,
    analytical.roofline_s, analytical.compute_s, analytical.memory_s, analytical.communication_s, analytical.estimate_s,
    analytical.energy_per_output_token_j,
    llms.family, llms.architecture, llms.num_parameters, llms.num_layers, llms.num_encoder_layers, llms.hidden_size
FROM runs AS measured
LEFT JOIN twins AS analytical USING (config_id)
LEFT JOIN llms ON llms.llm_id = measured.llm_id
WHERE measured.source_kind IN ('measured', 'published')
    AND measured.status = 'ok'
    AND NOT measured.is_excluded
    AND measured.energy_per_output_token_j IS NOT NULL
    AND list_contains($phases::VARCHAR[], measured.phase)
    AND ($source::VARCHAR IS NULL OR starts_with(measured.source_id, $source::VARCHAR))
ORDER BY measured.run_id
