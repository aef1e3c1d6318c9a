-- Purpose: requests of a run over time, thinned out to what a chart can show; `num_all` says how many there are of its kind.
-- Grain: one request, at most about 2000 that completed and 2000 that failed.
-- Parameters: $run_id.
SELECT * EXCLUDE (place)
FROM (
    SELECT
        request_index, sample_phase, status, status_detail, http_status, scheduled_at_s, sent_at_s, ttft_s, tpot_s, e2el_s, input_tokens,
        output_tokens, is_steady, client_index,
        row_number() OVER (PARTITION BY status = 'ok' ORDER BY request_index) - 1 AS place,
        count(*) OVER (PARTITION BY status = 'ok') AS num_all
    FROM requests
    WHERE run_id = $run_id::VARCHAR
)
WHERE place % (1 + num_all // 2000) = 0
ORDER BY request_index
