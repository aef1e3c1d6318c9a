-- Purpose: the roof of every device: dense peak of each dtype and memory bandwidth.
-- Grain: one device type and dtype it supports.
SELECT
    hardware_id,
    name AS hardware_name,
    memory_bandwidth_bytes_per_s AS bandwidth_bytes_per_s,
    replace(replace(peak, 'peak_', ''), '_flops_per_s', '') AS dtype,
    peak_flops_per_s,
    peak_flops_per_s / memory_bandwidth_bytes_per_s AS ridge
FROM (
    UNPIVOT (SELECT hardware_id, name, memory_bandwidth_bytes_per_s, COLUMNS('peak_.*_flops_per_s') FROM hardware)
    ON COLUMNS('peak_.*_flops_per_s')
    INTO NAME peak VALUE peak_flops_per_s
)
