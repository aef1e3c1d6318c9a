-- Purpose: what the checks found wrong or doubtful, worst first, with the run it is about.
-- Grain: one finding.
-- Parameters: $source_id, a source, or what stands before a / in it, NULL for all; $run_id, NULL for all; $severity fault or doubt,
--   NULL for both; $check_name, NULL for all; $with_past, true for findings too that no longer hold.
SELECT
    findings.finding_id, findings.severity, findings.check_name, findings.source_id, sources.title AS source_title, findings.run_id,
    runs.source_cell, runs.llm_id, runs.hardware_id, runs.phase, runs.is_excluded, findings.metric, findings.value, findings.expected,
    findings.sentence, findings.found_by, findings.is_current, findings.found_at
FROM findings
LEFT JOIN runs USING (run_id)
LEFT JOIN sources ON sources.source_id = findings.source_id
WHERE (
        $source_id::VARCHAR IS NULL OR findings.source_id = $source_id::VARCHAR
        OR starts_with(findings.source_id, $source_id::VARCHAR || '/')
    )
    AND ($run_id::VARCHAR IS NULL OR findings.run_id = $run_id::VARCHAR)
    AND ($severity::VARCHAR IS NULL OR findings.severity = $severity::VARCHAR)
    AND ($check_name::VARCHAR IS NULL OR findings.check_name = $check_name::VARCHAR)
    AND (coalesce($with_past::BOOLEAN, false) OR findings.is_current)
ORDER BY findings.severity = 'fault' DESC, findings.source_id, findings.check_name, findings.sentence
LIMIT 5000
