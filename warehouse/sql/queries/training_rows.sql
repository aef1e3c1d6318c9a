-- Purpose: what predictors learn from: measured runs beside the analytical row of the same configuration, with the LLM's shape.
--   Eager runs of one device with a growing KV cache alone: other ways to run a configuration have the same features.
-- Grain: one measured run; analytical columns (no prefix) are NULL where no analytical row of ruleset `default` is loaded yet.
--   Of several engine revisions the newest row counts.
-- Parameters: $hardware_id, NULL for every device.
WITH analytical AS (
    SELECT DISTINCT ON (config_id) *
    FROM runs
    WHERE source_kind = 'analytical' AND ruleset = 'default' AND status = 'ok'
    ORDER BY config_id, engine_revision DESC NULLS LAST, collected_at DESC, run_id
)
SELECT
    measured.run_id, measured.config_id, measured.llm_id, measured.hardware_id, measured.num_devices, measured.phase, measured.task,
    measured.batch_size, measured.input_tokens, measured.output_tokens, measured.context_tokens,
    measured.weight_dtype, measured.activation_dtype, measured.kv_dtype, measured.attention, measured.execution, measured.framework,
    measured.other_load_ratio,
    measured.latency_s AS measured_latency_s,
    measured.memory_peak_bytes AS measured_memory_peak_bytes,
    analytical.flops, analytical.bytes_moved, analytical.weight_bytes_read, analytical.activation_bytes_read,
    analytical.activation_bytes_written, analytical.kv_bytes_read, analytical.kv_bytes_written,
    analytical.roofline_s, analytical.compute_s, analytical.memory_s,
    analytical.weights_bytes, analytical.kv_cache_bytes, analytical.activation_peak_bytes, analytical.memory_peak_bytes,
    llms.architecture, llms.num_parameters, llms.num_layers, llms.num_encoder_layers, llms.hidden_size, llms.vocab_size,
    hardware.kind AS hardware_kind
FROM runs AS measured
LEFT JOIN analytical USING (config_id)
LEFT JOIN llms ON llms.llm_id = measured.llm_id
LEFT JOIN hardware ON hardware.hardware_id = measured.hardware_id
WHERE measured.source_kind = 'measured'
    AND measured.status = 'ok'
    AND NOT measured.is_excluded
    AND measured.phase IN ('forward', 'prefill', 'decode')
    AND coalesce(measured.execution, 'eager') = 'eager'
    AND coalesce(measured.cache_implementation, 'dynamic') = 'dynamic'
    AND measured.num_devices = 1
    AND ($hardware_id::VARCHAR IS NULL OR measured.hardware_id = $hardware_id::VARCHAR)
ORDER BY measured.run_id
