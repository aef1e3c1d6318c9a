-- Purpose: requests whose parts contradict one another, run by run.
-- Grain: one run that has requests.
-- Parameters: $family.
SELECT
    requests.run_id,
    count(*) AS num_rows,
    count(*) FILTER (
        WHERE abs(requests.ttft_s + requests.tpot_s * (requests.output_tokens - 1) - requests.e2el_s) > 0.01 * requests.e2el_s + 0.001
    ) AS num_off,
    count(*) FILTER (WHERE requests.ttft_s > requests.e2el_s * 1.000001) AS num_late
FROM requests
JOIN runs USING (run_id)
WHERE runs.source_kind IN ('measured', 'published') AND split_part(runs.source_id, '/', 1) = $family::VARCHAR
GROUP BY ALL
ORDER BY ALL
