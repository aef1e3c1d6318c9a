-- Purpose: what checks found wrong or doubtful and still find, counted.
-- Grain: one source and check.
-- Parameters: none.
SELECT
    findings.source_id,
    any_value(sources.title) AS title,
    findings.check_name,
    count(*) AS num_findings,
    count(*) FILTER (WHERE findings.severity = 'fault') AS num_faults,
    count(*) FILTER (WHERE findings.severity = 'doubt') AS num_doubts,
    count(DISTINCT findings.run_id) AS num_rows,
    max(findings.found_at) AS last_found_at
FROM findings
LEFT JOIN sources USING (source_id)
WHERE findings.is_current
GROUP BY findings.source_id, findings.check_name
ORDER BY num_faults DESC, num_findings DESC, findings.source_id, findings.check_name
