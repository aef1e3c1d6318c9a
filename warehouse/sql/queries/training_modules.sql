-- Purpose: what predictors of module times learn from: every timed module of measured runs whose work is stated, beside how it was run.
-- Grain: one module of one run, everything below it included; `(self)` in a path is the module without those below it.
-- Parameters: $hardware_id, NULL for every device; $source, a prefix of source ids, NULL for all.
SELECT
    ops.run_id, ops.op_index AS row_index, runs.source_id, runs.source_kind, runs.collector,
    runs.llm_id, llms.family, llms.architecture, llms.num_parameters, runs.hardware_id, runs.num_devices, runs.framework, runs.framework_version,
    runs.execution, runs.weight_dtype, runs.activation_dtype, runs.phase, runs.batch_size, runs.input_tokens, runs.output_tokens,
    runs.context_tokens, runs.other_load_ratio, ops.op_kind, ops.class_name, ops.flops,
    coalesce(
        ops.weight_bytes_read + ops.activation_bytes_read + ops.activation_bytes_written,
        ops.parameter_bytes + ops.activation_bytes
    ) AS bytes_moved,
    ops.time_s AS measured_time_s
FROM ops
JOIN runs USING (run_id)
LEFT JOIN llms USING (llm_id)
WHERE runs.source_kind = 'measured'
    AND runs.status = 'ok'
    AND NOT runs.is_excluded
    AND ops.level = 'module'
    AND ops.time_s IS NOT NULL
    AND coalesce(ops.flops, ops.bytes_moved) IS NOT NULL
    AND ($source::VARCHAR IS NULL OR starts_with(runs.source_id, $source::VARCHAR))
    AND ($hardware_id::VARCHAR IS NULL OR runs.hardware_id = $hardware_id::VARCHAR)
ORDER BY ops.run_id, ops.op_index
