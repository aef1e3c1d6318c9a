-- Purpose: how a latency is distributed over the requests of runs: the value that a share of them stays under. Completed requests
--   after warm-up only.
-- Grain: one run and percentile, 0 to 100 in steps of 1.
-- Parameters: $run_ids; $metric: ttft_s, tpot_s, itl_s, ttfo_s or e2el_s.
SELECT run_id, num_requests, unnest(range(101)) AS percentile, unnest(quantiles) AS value_s
FROM (
    SELECT
        run_id,
        count(value_s) AS num_requests,
        quantile_disc(value_s, [step / 100.0 FOR step IN range(101)]) AS quantiles
    FROM (
        SELECT
            run_id,
            CASE $metric::VARCHAR
                WHEN 'ttft_s' THEN ttft_s
                WHEN 'tpot_s' THEN tpot_s
                WHEN 'itl_s' THEN itl_s
                WHEN 'ttfo_s' THEN ttfo_s
                WHEN 'e2el_s' THEN e2el_s
            END AS value_s
        FROM requests
        WHERE list_contains($run_ids::VARCHAR[], run_id) AND status = 'ok' AND sample_phase = 'measured'
    )
    WHERE value_s IS NOT NULL
    GROUP BY run_id
)
ORDER BY run_id, percentile
