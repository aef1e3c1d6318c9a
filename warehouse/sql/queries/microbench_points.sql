-- Purpose: kernels, copies and collectives of one shape each, with what they reached and how near that is to the roof: of a GEMM or
--   of attention the greater of its FLOPs over the peak and its bytes over the bandwidth, over its time; of other kernels the bytes alone
--   (vector units set their FLOPs); of copies to or from the host, and of collectives, the link. `share` is of the datasheet,
--   `share_of_measured` of the ceilings reached on that device. What stays in a warm cache can pass a roof of memory, but no peak.
-- Grain: one run of phase microbench, measured or published, tables of many shapes apart (query `kernel_points`); at most 10000.
-- Parameters: $hardware_id, $kernels, $source_kind, $cache_state, $dtype, NULL for any.
WITH shaped AS (
    SELECT
        c.* REPLACE (
            coalesce(c.kernel, only_op.op_kind) AS kernel,
            coalesce(c.m, only_op.m) AS m,
            coalesce(c.n, only_op.n) AS n,
            coalesce(c.k, only_op.k) AS k
        )
    FROM comparable AS c
    LEFT JOIN (
        SELECT run_id, any_value(op_kind) AS op_kind, any_value(m) AS m, any_value(n) AS n, any_value(k) AS k
        FROM module_ops
        GROUP BY run_id
        HAVING count(*) = 1
    ) AS only_op
        ON only_op.run_id = c.run_id AND c.kernel IS NULL
    WHERE c.phase = 'microbench' AND NOT c.is_excluded AND c.run_id NOT IN (SELECT run_id FROM kernels)
),
points AS (
    SELECT
        *,
        coalesce(activation_dtype, weight_dtype) AS roof_dtype,
        coalesce(num_devices, 1) AS ranks,
        CASE WHEN kernel = 'gemm' THEN coalesce(flops, 2.0 * m * n * k) ELSE flops END AS work,
        kernel IN ('all_reduce', 'all_gather', 'reduce_scatter', 'reduce', 'broadcast', 'all_to_all', 'send_recv', 'communication') AS is_collective,
        kernel IN ('memcpy_h2d', 'memcpy_d2h') AS is_host_copy
    FROM shaped
),
reached AS (
    SELECT
        measured_of AS hardware_id,
        max(memory_bandwidth_bytes_per_s) AS memory,
        max(link_bandwidth_bytes_per_s) AS link,
        max(host_link_bandwidth_bytes_per_s) AS host
    FROM hardware
    WHERE kind = 'measured'
    GROUP BY measured_of
)
SELECT
    points.run_id, points.source_kind, points.source_id, points.source_cell, points.hardware_id, points.hardware_name, points.kernel,
    points.ranks AS num_devices, points.interconnect, points.m, points.n, points.k,
    points.m % 8 = 0 AND points.n % 8 = 0 AND points.k % 8 = 0 AS is_aligned,
    points.batch_size, points.num_heads, points.num_kv_heads, points.head_dim, points.input_tokens, points.context_tokens, points.size_bytes,
    points.host_memory, points.cache_state, points.attention, points.roof_dtype AS dtype, points.status, points.status_detail,
    points.latency_s, points.latency_p50_s, points.latency_std_s, points.num_samples,
    points.work AS flops,
    points.bytes_moved,
    coalesce(points.achieved_flops_per_s, points.work / nullif(points.latency_s, 0)) AS achieved_flops_per_s,
    coalesce(
        points.achieved_bytes_per_s,
        CASE WHEN points.is_host_copy THEN points.size_bytes ELSE points.bytes_moved END / nullif(points.latency_s, 0)
    ) AS achieved_bytes_per_s,
    points.bus_bytes_per_s,
    CASE
        WHEN points.is_collective THEN points.bus_bytes_per_s / sheet.link_bandwidth_bytes_per_s
        WHEN points.is_host_copy THEN achieved_bytes_per_s / sheet.host_link_bandwidth_bytes_per_s
        WHEN points.kernel IN ('gemm', 'attention')
            THEN CASE WHEN roofs.peak_flops_per_s IS NOT NULL THEN greatest(points.work / roofs.peak_flops_per_s, points.bytes_moved / sheet.memory_bandwidth_bytes_per_s) / points.latency_s END
        ELSE points.bytes_moved / sheet.memory_bandwidth_bytes_per_s / points.latency_s
    END AS share,
    CASE
        WHEN points.is_collective THEN points.bus_bytes_per_s / reached.link
        WHEN points.is_host_copy THEN achieved_bytes_per_s / reached.host
        WHEN points.kernel IN ('gemm', 'attention')
            THEN CASE WHEN roofs.has_ceiling THEN greatest(points.work / roofs.achievable_peak_flops_per_s, points.bytes_moved / reached.memory) / points.latency_s END
        ELSE points.bytes_moved / reached.memory / points.latency_s
    END AS share_of_measured,
    coalesce(
        points.source_kind = 'measured' AND share_of_measured > 1.001
        AND (points.cache_state IS DISTINCT FROM 'warm' OR points.work / roofs.achievable_peak_flops_per_s > 1.001 * points.latency_s),
        false
    ) AS is_above_measured_roof,
    coalesce(
        share > 1.001 AND (points.cache_state IS DISTINCT FROM 'warm' OR points.work / roofs.peak_flops_per_s > 1.001 * points.latency_s), false
    ) AS is_fault,
    points.throttled_ratio, points.other_load_ratio, points.framework, points.collected_at
FROM points
LEFT JOIN hardware AS sheet ON sheet.hardware_id = points.hardware_id
LEFT JOIN reached ON reached.hardware_id = points.hardware_id
LEFT JOIN roofs ON roofs.hardware_id = points.hardware_id AND roofs.dtype = points.roof_dtype
WHERE ($hardware_id::VARCHAR IS NULL OR points.hardware_id = $hardware_id::VARCHAR)
    AND ($kernels::VARCHAR[] IS NULL OR list_contains($kernels::VARCHAR[], points.kernel))
    AND ($source_kind::VARCHAR IS NULL OR points.source_kind = $source_kind::VARCHAR)
    AND ($cache_state::VARCHAR IS NULL OR points.cache_state IS NULL OR points.cache_state = $cache_state::VARCHAR)
    AND ($dtype::VARCHAR IS NULL OR points.roof_dtype IS NULL OR points.roof_dtype = $dtype::VARCHAR)
ORDER BY points.kernel, points.source_kind, points.ranks, points.n, points.k, points.m, points.size_bytes, points.run_id
LIMIT 10000
