-- Purpose: what predictors of whole runs learn from: every measured or published run beside the analytical row of its configuration,
--   with the LLM's shape. How it was run (execution, framework, cache, attention, dtypes, devices) stands beside it: rows that differ
--   there are told apart by keys and categories, not left out.
-- Grain: one run; analytical columns (no prefix) are NULL where no analytical row of ruleset `default` is loaded for the configuration.
--   Of several engine revisions the newest row counts.
-- Parameters: $phases, a list of phases, NULL for all but serving and microbenchmarks; $source, a prefix of source ids, NULL for all;
--   $hardware_id, NULL for every device.
SELECT
    measured.run_id, measured.config_id, measured.source_id, measured.source_kind, measured.collector,
    measured.llm_id, measured.hardware_id, measured.num_devices, measured.tensor_parallel, measured.pipeline_parallel,
    measured.data_parallel, measured.expert_parallel, measured.interconnect, measured.phase, measured.task,
    measured.batch_size, measured.input_tokens, measured.output_tokens, measured.context_tokens, measured.prefix_tokens,
    measured.weight_dtype, measured.activation_dtype, measured.kv_dtype, measured.attention, measured.optimizations::VARCHAR AS optimizations,
    measured.optimizer_dtype, measured.gradient_dtype, measured.lora_rank, measured.num_micro_batches,
    measured.execution, measured.cache_implementation, measured.served_model_name, measured.framework, measured.framework_version,
    measured.other_load_ratio, measured.hooks_overhead_ratio, measured.throttled_ratio,
    measured.latency_s AS measured_latency_s,
    analytical.bytes_moved / measured.latency_s AS measured_achieved_bytes_per_s,
    measured.memory_peak_bytes AS measured_memory_peak_bytes,
    measured.memory_reserved_bytes AS measured_memory_reserved_bytes,
    measured.memory_process_bytes AS measured_memory_process_bytes,
    measured.memory_device_bytes AS measured_memory_device_bytes,
    analytical.flops, analytical.bytes_moved, analytical.weight_bytes_read, analytical.activation_bytes_read,
    analytical.activation_bytes_written, analytical.kv_bytes_read, analytical.kv_bytes_written,
    analytical.roofline_s, analytical.estimate_s, analytical.compute_s, analytical.memory_s, analytical.communication_s, analytical.launch_s,
    analytical.weights_bytes, analytical.kv_cache_bytes, analytical.activation_peak_bytes, analytical.logits_bytes,
    analytical.gradients_bytes, analytical.optimizer_bytes, analytical.workspace_bytes, analytical.memory_peak_bytes,
    llms.family, llms.architecture, llms.num_parameters, llms.num_active_parameters, llms.num_layers, llms.num_encoder_layers,
    llms.hidden_size, llms.num_heads, llms.num_kv_heads, llms.head_dim, llms.intermediate_size, llms.vocab_size,
    llms.llm_id IS NOT NULL AS has_llm, analytical.config_id IS NOT NULL AS has_twin
FROM runs AS measured
LEFT JOIN twins AS analytical USING (config_id)
LEFT JOIN llms ON llms.llm_id = measured.llm_id
WHERE measured.source_kind IN ('measured', 'published')
    AND measured.status = 'ok'
    AND NOT measured.is_excluded
    AND measured.phase NOT IN ('serve', 'microbench')
    AND ($phases::VARCHAR[] IS NULL OR list_contains($phases::VARCHAR[], measured.phase))
    AND ($source::VARCHAR IS NULL OR starts_with(measured.source_id, $source::VARCHAR))
    AND ($hardware_id::VARCHAR IS NULL OR measured.hardware_id = $hardware_id::VARCHAR)
ORDER BY measured.run_id
