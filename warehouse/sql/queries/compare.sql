-- Purpose: every run of one LLM under one workload, device by device: measured, published, analytical and predicted. What a source
--   does not state keeps none of its rows away: `unstated` names it. Of several engine revisions the newest counts.
-- Grain: one run, all columns.
-- Parameters: $llm_id; $phase, $batch, $tokens, $dtype as `workloads` spells them, NULL for any; $hardware_ids, NULL for all;
--   $ruleset of analytical rows, NULL for all; $with_excluded, false leaves out rows that are kept out of charts.
SELECT * EXCLUDE (token_parts, parallelism)
FROM comparable
WHERE llm_id = $llm_id::VARCHAR
    AND ($phase::VARCHAR IS NULL OR phase = $phase::VARCHAR)
    AND ($batch::VARCHAR IS NULL OR batch = $batch::VARCHAR OR batch_size IS NULL)
    AND (
        $tokens::VARCHAR IS NULL
        OR tokens = $tokens::VARCHAR
        OR (list_contains(unstated, 'tokens') AND list_has_all(string_split($tokens::VARCHAR, ', '), token_parts))
    )
    AND ($dtype::VARCHAR IS NULL OR number_format = $dtype::VARCHAR OR list_contains(unstated, 'number format'))
    AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
    AND ($ruleset::VARCHAR IS NULL OR ruleset IS NULL OR ruleset = $ruleset::VARCHAR)
    AND (coalesce($with_excluded::BOOLEAN, false) OR NOT is_excluded)
    AND run_id NOT IN (SELECT run_id FROM outdated)
ORDER BY source_kind, device, batch_size, run_id
LIMIT 5000
