-- Purpose: devices with microbenchmarks or measured ceilings, those measured most first.
-- Grain: one device type.
-- Parameters: none.
SELECT
    hardware.hardware_id, hardware.name, hardware.kind,
    coalesce(counts.num_measured, 0) AS num_measured,
    coalesce(counts.num_published, 0) AS num_published,
    hardware_id IN (SELECT hardware_id FROM ceilings) AS has_ceilings
FROM hardware
LEFT JOIN (
    SELECT
        hardware_id,
        count(*) FILTER (WHERE source_kind = 'measured') AS num_measured,
        count(*) FILTER (WHERE source_kind = 'published') AS num_published
    FROM runs
    WHERE phase = 'microbench'
    GROUP BY hardware_id
) AS counts USING (hardware_id)
WHERE hardware.kind IS DISTINCT FROM 'measured' AND (counts.num_measured + counts.num_published > 0 OR has_ceilings)
ORDER BY num_measured DESC, has_ceilings DESC, num_published DESC, hardware.name
