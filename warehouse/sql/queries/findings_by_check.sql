-- Purpose: how much each check found, and where.
-- Grain: one check and severity.
-- Parameters: none.
SELECT
    check_name, severity, count(*) AS num_findings, count(DISTINCT run_id) AS num_runs,
    list_sort(list_distinct(list(split_part(source_id, '/', 1)))) AS families
FROM findings
WHERE is_current
GROUP BY check_name, severity
ORDER BY severity = 'fault' DESC, num_findings DESC, check_name
