-- Purpose: the hardware catalogue, with how many rows each device has; measured ceilings are no devices.
-- Grain: one device type.
-- Parameters: none.
SELECT hardware.*, coalesce(counts.num_runs, 0) AS num_runs, coalesce(counts.num_observed, 0) AS num_observed
FROM hardware
LEFT JOIN (
    SELECT hardware_id, count(*) AS num_runs, count(*) FILTER (WHERE source_kind IN ('measured', 'published')) AS num_observed
    FROM runs
    GROUP BY hardware_id
) AS counts USING (hardware_id)
WHERE hardware.kind IS DISTINCT FROM 'measured'
ORDER BY num_observed DESC, hardware.name
