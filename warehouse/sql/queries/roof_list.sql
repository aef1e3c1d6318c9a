-- Purpose: roofs to draw.
-- Grain: one device type and dtype it supports.
-- Parameters: $hardware_ids and $dtypes, NULL for all.
SELECT *
FROM roofs
WHERE ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
    AND ($dtypes::VARCHAR[] IS NULL OR list_contains($dtypes::VARCHAR[], dtype))
ORDER BY hardware_name, peak_flops_per_s DESC
