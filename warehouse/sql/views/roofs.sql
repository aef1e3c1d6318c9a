-- Purpose: the roof of every device: dense peak of each dtype and memory bandwidth by its datasheet, and beside them what was
--   reached there (view `ceilings`). A device's measured ceilings are no device of their own.
-- Grain: one device type and dtype it supports.
SELECT
    sheet.*,
    ceilings.achievable_peak_flops_per_s IS NOT NULL AND ceilings.achievable_bandwidth_bytes_per_s IS NOT NULL AS has_ceiling,
    ceilings.achievable_peak_flops_per_s,
    ceilings.achievable_bandwidth_bytes_per_s,
    ceilings.achievable_peak_flops_per_s / ceilings.achievable_bandwidth_bytes_per_s AS achievable_ridge
FROM (
    SELECT
        hardware_id,
        name AS hardware_name,
        memory_bandwidth_bytes_per_s AS bandwidth_bytes_per_s,
        replace(replace(peak, 'peak_', ''), '_flops_per_s', '') AS dtype,
        peak_flops_per_s,
        peak_flops_per_s / memory_bandwidth_bytes_per_s AS ridge
    FROM (
        UNPIVOT (
            SELECT hardware_id, name, memory_bandwidth_bytes_per_s, COLUMNS('peak_.*_flops_per_s')
            FROM hardware
            WHERE kind IS DISTINCT FROM 'measured'
        )
        ON COLUMNS('peak_.*_flops_per_s')
        INTO NAME peak VALUE peak_flops_per_s
    )
) AS sheet
LEFT JOIN ceilings USING (hardware_id, dtype)
