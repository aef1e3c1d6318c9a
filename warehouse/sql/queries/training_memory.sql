-- Purpose: what predictors of memory learn from: measured peaks, as torch counts them (allocated, reserved) and as the driver does
--   (device), beside the analytical row of the same configuration and the shape of its LLM.
--   Allocated are peaks of one kind alone: torch's on an accelerator, the resident set of the process on a CPU.
-- Grain: one measured or published run; analytical columns (no prefix) are NULL where no analytical row of ruleset `default` is loaded.
--   Of several engine revisions the newest row counts.
--   is_allocator_counted: the tool counts torch's memory too.
-- Parameters: $phases, a list of phases; $source, a prefix of source ids, NULL for all.
SELECT
    measured.run_id, measured.config_id, measured.source_id, measured.source_kind, measured.collector, measured.llm_id, measured.served_model_name,
    measured.hardware_id, measured.num_devices, measured.tensor_parallel, measured.pipeline_parallel, measured.data_parallel,
    measured.phase, measured.task, measured.batch_size, measured.input_tokens, measured.output_tokens, measured.context_tokens,
    measured.weight_dtype, measured.activation_dtype, measured.kv_dtype, measured.attention, measured.execution,
    measured.framework, split_part(measured.framework_version, '+', 1) AS framework_version, measured.num_micro_batches, measured.optimizations::VARCHAR AS optimizations, measured.lora_rank, measured.other_load_ratio,
    measured.memory_peak_bytes IS NOT NULL AS is_allocator_counted,
    CASE WHEN measured.metric_definitions['memory_peak_bytes'] IN ('torch_max_allocated', 'rss_peak_delta', 'unstated_peak')
        THEN measured.memory_peak_bytes END AS measured_memory_peak_bytes,
    measured.memory_reserved_bytes AS measured_memory_reserved_bytes,
    CASE WHEN measured.metric_definitions['memory_device_bytes'] = 'driver_used'
        THEN measured.memory_device_bytes END AS measured_memory_device_bytes,
    analytical.weights_bytes, analytical.kv_cache_bytes, analytical.activation_peak_bytes, analytical.logits_bytes,
    analytical.gradients_bytes, analytical.optimizer_bytes, analytical.workspace_bytes, analytical.memory_peak_bytes,
    llms.architecture, llms.family, llms.num_parameters, llms.num_layers, llms.num_encoder_layers, llms.hidden_size, llms.num_heads,
    llms.num_kv_heads, llms.head_dim, llms.intermediate_size, llms.vocab_size
FROM runs AS measured
LEFT JOIN twins AS analytical USING (config_id)
LEFT JOIN llms ON llms.llm_id = measured.llm_id
WHERE measured.source_kind IN ('measured', 'published')
    AND measured.status = 'ok'
    AND NOT measured.is_excluded
    AND list_contains($phases::VARCHAR[], measured.phase)
    AND coalesce(measured.cache_implementation, 'dynamic') = 'dynamic'
    AND (measured.memory_peak_bytes IS NOT NULL OR measured.memory_reserved_bytes IS NOT NULL OR measured.memory_device_bytes IS NOT NULL)
    AND ($source::VARCHAR IS NULL OR starts_with(measured.source_id, $source::VARCHAR))
ORDER BY measured.run_id
