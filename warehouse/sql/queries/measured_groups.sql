-- Purpose: what has been measured here already (on a busy machine too), so that a plan run again measures only what is missing.
--   A failure that another try would not change counts, a timeout for limits up to the one it had; what was only reckoned (not
--   tried, not started) and what a shipped dataset holds do not.
-- Grain: one group of runs that repeat one another.
-- Parameters: $collector.
SELECT repeat_group_id, max(CASE status WHEN 'timeout' THEN coalesce(duration_s, 0) ELSE 'infinity' END) AS final_up_to_s
FROM runs
WHERE collector = $collector::VARCHAR
    AND source_id = 'rooflake/' || $collector::VARCHAR
    AND status IN ('ok', 'oom', 'timeout', 'unsupported')
    AND NOT (
        status IN ('oom', 'timeout')
        AND (coalesce(status_detail, '') LIKE '%not tried%' OR coalesce(status_detail, '') LIKE '%not started%')
    )
    AND repeat_group_id IS NOT NULL
GROUP BY repeat_group_id
