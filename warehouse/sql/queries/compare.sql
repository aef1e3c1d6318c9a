-- Purpose: every run of one LLM under one workload, device by device: measured, published, analytical and predicted.
-- Grain: one run, all columns.
-- Parameters: $llm_id; $phase, $batch, $tokens, $dtype as `workloads` spells them, NULL for any; $hardware_ids, NULL for all;
--   $ruleset of analytical rows, NULL for all; $with_excluded, false leaves out rows that are kept out of charts.
SELECT *
FROM comparable
WHERE llm_id = $llm_id::VARCHAR
    AND ($phase::VARCHAR IS NULL OR phase = $phase::VARCHAR)
    AND ($batch::VARCHAR IS NULL OR batch = $batch::VARCHAR)
    AND ($tokens::VARCHAR IS NULL OR tokens = $tokens::VARCHAR)
    AND ($dtype::VARCHAR IS NULL OR dtype = $dtype::VARCHAR)
    AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
    AND ($ruleset::VARCHAR IS NULL OR ruleset IS NULL OR ruleset = $ruleset::VARCHAR)
    AND (coalesce($with_excluded::BOOLEAN, false) OR NOT is_excluded)
ORDER BY source_kind, device, batch_size, run_id
LIMIT 5000
