-- Purpose: what predictors of kernel times learn from: every timed kernel of some kinds, beside the run (device, software, dtypes) it was timed in.
-- Grain: one timed shape.
-- Parameters: $op_kinds, a list of kinds of ops; $phase, NULL for all; $source, a prefix of source ids, NULL for all.
SELECT
    kernels.run_id, kernels.kernel_index AS row_index, runs.source_id, runs.source_kind, runs.collector,
    runs.hardware_id, runs.framework, runs.framework_version, runs.execution, runs.interconnect, runs.weight_dtype, runs.activation_dtype, runs.kv_dtype,
    coalesce(list_contains(runs.optimizations, 'block_scales'), false) AS is_block_scaled,
    kernels.kernel, kernels.op_kind, kernels.name, kernels.implementation, kernels.phase, coalesce(kernels.llm_id, runs.llm_id) AS llm_id,
    kernels.batch_size, kernels.m, kernels.n, kernels.k, kernels.input_tokens, kernels.context_tokens,
    kernels.num_heads, kernels.num_kv_heads, kernels.head_dim, kernels.window_tokens, kernels.num_experts, kernels.num_active_experts,
    kernels.distribution, kernels.tensor_parallel, kernels.expert_parallel, kernels.num_devices, kernels.size_bytes,
    kernels.flops, kernels.bytes_moved, kernels.roofline_s,
    kernels.time_s AS measured_time_s, kernels.power_w AS measured_power_w
FROM kernels
JOIN runs USING (run_id)
WHERE runs.source_kind IN ('measured', 'published')
    AND runs.status = 'ok'
    AND NOT runs.is_excluded
    AND list_contains($op_kinds::VARCHAR[], kernels.op_kind)
    AND ($phase::VARCHAR IS NULL OR kernels.phase = $phase::VARCHAR)
    AND ($source::VARCHAR IS NULL OR starts_with(runs.source_id, $source::VARCHAR))
ORDER BY kernels.run_id, kernels.kernel_index
