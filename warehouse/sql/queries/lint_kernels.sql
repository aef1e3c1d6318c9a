-- Purpose: tables of kernels in a few numbers: how many rows beat their bound by 5 % (those bound by memory only where their bytes are beyond
--   the last-level cache, taken as 64 MB where unknown), the worst of them, how many have a mean outside their extremes, and a
--   fingerprint of shapes and times.
-- Grain: one kernel of one run.
-- Parameters: $family.
SELECT
    kernels.run_id,
    kernels.kernel,
    count(*) AS num_rows,
    count(*) FILTER (WHERE is_above) AS num_above,
    max(roofline_s / time_s) FILTER (WHERE is_above) AS worst_ratio,
    arg_max(
        concat_ws(
            ', ', name, 'm ' || m, 'n ' || n, 'k ' || k, 'batch ' || batch_size, input_tokens || ' in', context_tokens || ' context',
            size_bytes || ' B', format('{:.4g} ms', time_s * 1e3)
        ),
        roofline_s / time_s
    ) FILTER (WHERE is_above) AS worst,
    count(*) FILTER (
        WHERE time_s > time_max_s * 1.000001 OR time_s < time_min_s * 0.999999
            OR time_p50_s > time_max_s * 1.000001 OR time_p50_s < time_min_s * 0.999999
    ) AS num_disordered,
    concat_ws(
        ':', count(*),
        sum(
            hash(
                name, phase, llm_id, batch_size, m, n, k, input_tokens, context_tokens, num_heads, num_kv_heads, head_dim, window_tokens,
                num_experts, num_active_experts, distribution, kernels.tensor_parallel, kernels.expert_parallel, kernels.num_devices,
                size_bytes, time_s, time_std_s
            )::HUGEINT % 1000000007
        )
    ) AS fingerprint
FROM kernels
JOIN (
    SELECT run_id, hardware.l2_bytes
    FROM runs LEFT JOIN hardware USING (hardware_id)
    WHERE source_kind IN ('measured', 'published') AND split_part(source_id, '/', 1) = $family::VARCHAR
) AS owners USING (run_id),
    LATERAL (
        SELECT time_s < roofline_s * 0.95 AND time_s > 0 AND (bound = 'compute' OR bytes_moved > 2 * coalesce(l2_bytes, 64e6)) AS is_above
    )
GROUP BY ALL
ORDER BY ALL
