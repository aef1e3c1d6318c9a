-- Purpose: requests in flight over the time of a run: sent and not yet ended. Requests whose end is not known count in no moment.
-- Grain: one of at most 301 equal parts of the run, with the most that were in flight at once within it.
-- Parameters: $run_id.
WITH known AS (
    SELECT sent_at_s, sent_at_s + e2el_s AS ended_at_s
    FROM requests
    WHERE run_id = $run_id::VARCHAR AND sent_at_s IS NOT NULL AND e2el_s IS NOT NULL
),
counted AS (
    SELECT at_s, sum(change) OVER (ORDER BY at_s, change ROWS UNBOUNDED PRECEDING) AS in_flight
    FROM (SELECT sent_at_s AS at_s, 1 AS change FROM known UNION ALL SELECT ended_at_s, -1 FROM known)
),
span AS (SELECT min(at_s) AS first_s, nullif(max(at_s) - min(at_s), 0) / 300 AS part_s FROM counted)
SELECT
    first_s + part_s * floor((at_s - first_s) / part_s) AS at_s,
    max(in_flight)::BIGINT AS in_flight
FROM counted, span
WHERE part_s IS NOT NULL
GROUP BY ALL
ORDER BY at_s
