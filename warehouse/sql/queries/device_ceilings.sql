-- Purpose: what a device promises and what microbenchmarks reached: dense peaks, memory and link bandwidths.
--   `is_probed`: the device is in no catalogue, and what stands for its datasheet is a quick probe of our own.
-- Grain: one resource of one device that its datasheet or a measurement knows.
-- Parameters: $hardware_id.
SELECT
    resource,
    max(value) FILTER (WHERE NOT is_measured) AS datasheet,
    max(value) FILTER (WHERE is_measured) AS measured,
    measured / datasheet AS share,
    bool_or(NOT is_measured AND source LIKE 'measured by rooflake%') AS is_probed,
    CASE WHEN resource LIKE '%flops_per_s' THEN 'FLOP/s' ELSE 'B/s' END AS unit
FROM (
    UNPIVOT (
        SELECT
            coalesce(measured_of, hardware_id) AS hardware_id,
            kind IS NOT DISTINCT FROM 'measured' AS is_measured,
            source,
            COLUMNS('peak_.*_flops_per_s|vector_fp32_flops_per_s|.*bandwidth_bytes_per_s')
        FROM hardware
    )
    ON COLUMNS('peak_.*_flops_per_s|vector_fp32_flops_per_s|.*bandwidth_bytes_per_s')
    INTO NAME resource VALUE value
)
WHERE hardware_id = $hardware_id::VARCHAR
GROUP BY resource
ORDER BY measured IS NULL, unit DESC, resource
