-- Purpose: every latency definition of every request, each under its own name: from the arrival of its chunks where they are known,
--   else from what the row says. The same formulas as warehouse/definitions.py; NULL where a request has no such latency,
--   or its chunks came joined under one time.
-- Grain: one request.
SELECT
    run_id, request_index, sample_phase, status, is_steady, input_tokens, output_tokens, token_count_source,
    coalesce(chunk_times_s[1], requests.ttft_s) AS ttft_s,
    coalesce(chunk_times_s[1], requests.ttft_s) + sent_at_s - scheduled_at_s AS ttft_scheduled_s,
    coalesce(chunk_times_s[-1], requests.e2el_s) AS e2el_s,
    coalesce(chunk_times_s[-1], requests.e2el_s) + sent_at_s - scheduled_at_s AS e2el_scheduled_s,
    CASE
        WHEN len(chunk_times_s) > 0 THEN nullif(chunk_times_s[-1] - chunk_times_s[1], 0) / nullif(greatest(output_tokens - 1, 0), 0)
        ELSE requests.tpot_s
    END AS tpot_s,
    coalesce(chunk_times_s[-1], requests.e2el_s) / nullif(output_tokens, 0) AS ntpot_s,
    CASE
        WHEN len(chunk_times_s) > 0 AND len(chunk_tokens) = len(chunk_times_s)
            THEN nullif(chunk_times_s[-1] - chunk_times_s[1], 0) / nullif(list_sum(chunk_tokens[2:]), 0)
        WHEN coalesce(len(chunk_times_s), 0) = 0 THEN requests.itl_s
    END AS itl_s,
    nullif(chunk_times_s[-1] - chunk_times_s[1], 0) / nullif(len(chunk_times_s) - 1, 0) AS icl_s,
    nullif(chunk_times_s[2] - chunk_times_s[1], 0) AS ttst_s,
    1 / nullif(
        CASE
            WHEN len(chunk_times_s) > 0 THEN nullif(chunk_times_s[-1] - chunk_times_s[1], 0) / nullif(greatest(output_tokens - 1, 0), 0)
            ELSE requests.tpot_s
        END,
        0
    ) AS interactivity_per_s
FROM requests
