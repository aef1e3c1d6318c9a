-- Purpose: served loads as people compare them: what was served under one name, its workload and load in words, throughput of one
--   device (NULL where their number is not stated), and what checks found wrong. Of analytical rows the newest revision of the engine only.
-- Grain: one run of phase serve.
SELECT
    comparable.*,
    coalesce(comparable.llm_id, comparable.served_model_name, 'not stated') AS served_id,
    coalesce(comparable.llm_name, comparable.llm_id, comparable.served_model_name, 'LLM not stated') AS served_name,
    coalesce(
        nullif(concat_ws(', ', comparable.input_tokens || ' in', comparable.output_tokens || ' out', comparable.prefix_tokens || ' cached'), ''),
        'not stated'
    ) AS workload,
    coalesce(
        nullif(
            concat_ws(
                ', ',
                comparable.concurrency || ' at once',
                printf('%g', comparable.request_rate_per_s) || ' requests/s',
                nullif(nullif(comparable.load_pattern, 'closed'), 'constant')
            ),
            ''
        ),
        'not stated'
    ) AS load_words,
    nullif(
        concat_ws(
            ', ',
            'TTFT ' || round(1e3 * comparable.slo_ttft_s)::BIGINT || ' ms',
            'TPOT ' || round(1e3 * comparable.slo_tpot_s)::BIGINT || ' ms',
            'E2EL ' || round(1e3 * comparable.slo_e2el_s)::BIGINT || ' ms'
        ),
        ''
    ) AS objectives,
    nullif(
        concat_ws(' + ', comparable.num_prefill_devices || ' prefill', comparable.num_decode_devices || ' decode devices'), ''
    ) AS pools,
    comparable.output_tokens_per_s / comparable.num_devices AS output_tokens_per_s_per_device,
    coalesce(found.num_faults, 0) AS num_faults,
    coalesce(found.num_doubts, 0) AS num_doubts,
    found.finding
FROM comparable
LEFT JOIN (
    SELECT
        run_id,
        count(*) FILTER (WHERE severity = 'fault') AS num_faults,
        count(*) FILTER (WHERE severity = 'doubt') AS num_doubts,
        arg_min(sentence, severity = 'doubt') AS finding
    FROM findings
    WHERE run_id IS NOT NULL AND is_current
    GROUP BY run_id
) AS found USING (run_id)
WHERE comparable.phase = 'serve'
    AND comparable.run_id NOT IN (SELECT run_id FROM outdated)
