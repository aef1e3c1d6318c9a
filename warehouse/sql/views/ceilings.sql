-- Purpose: what microbenchmarks reached on a device (hardware rows of kind `measured`), dtype by dtype: the achievable roof.
-- Grain: one device type and dtype; the peak is NULL where no GEMM of that dtype was measured.
SELECT
    measured_of AS hardware_id,
    replace(replace(peak, 'peak_', ''), '_flops_per_s', '') AS dtype,
    max(peak_flops_per_s) AS achievable_peak_flops_per_s,
    max(memory_bandwidth_bytes_per_s) AS achievable_bandwidth_bytes_per_s
FROM (
    SELECT measured_of, memory_bandwidth_bytes_per_s, COLUMNS('peak_.*_flops_per_s') FROM hardware WHERE kind = 'measured'
) AS reached
    UNPIVOT INCLUDE NULLS (peak_flops_per_s FOR peak IN (COLUMNS('peak_.*_flops_per_s')))
GROUP BY ALL
