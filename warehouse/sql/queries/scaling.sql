-- Purpose: what more devices bring: tokens/s of one workload by number of devices and way of splitting, with the efficiency
--   rate(n) / (n x rate(1)). Of runs that repeat one another the median counts. Without a rate on one device there is no efficiency.
--   Rates are held against rates of the same definition only; `definition` names it (not stated: the source names none).
-- Grain: one workload (all but the number of devices and the split), definition, strategy and number of devices, for workloads that ran on
--   several numbers of devices; the one device stands in every strategy's row of numbers. A failure has no rate. Runs that
--   do not state their number of devices are left out.
-- Parameters: $llm_id, $hardware_id, NULL for any; $is_training true for training steps alone, false for the others, NULL for all.
WITH rated AS (
    SELECT
        *,
        phase IN ('pretrain_step', 'finetune_step') AS is_training,
        CASE WHEN status = 'ok' THEN coalesce(CASE WHEN phase IN ('decode', 'generate', 'serve') THEN output_tokens_per_s END, total_tokens_per_s, output_tokens_per_s) END AS rate,
        CASE WHEN phase IN ('decode', 'generate', 'serve') AND output_tokens_per_s IS NOT NULL OR total_tokens_per_s IS NULL THEN 'output_tokens_per_s' ELSE 'total_tokens_per_s' END AS rate_metric,
        CASE WHEN rate IS NOT NULL THEN coalesce(map_extract(metric_definitions, rate_metric)[1], 'not stated') END AS own_definition,
        CASE
            WHEN num_devices = 1 THEN 'one device'
            WHEN tensor_parallel = num_devices THEN 'tensor parallel'
            WHEN pipeline_parallel = num_devices THEN 'layer split'
            WHEN data_parallel = num_devices THEN 'data parallel'
            WHEN len(parallelism) > 0 THEN array_to_string(parallelism, ' + ')
            ELSE 'split not stated'
        END AS split,
        concat_ws(
            ', ', coalesce(hardware_name, hardware_id), phase, 'batch ' || batch, tokens, dtype, interconnect, nullif(variant, ''), source_id
        ) AS workload
    FROM comparable
    WHERE source_kind IN ('measured', 'published')
        AND NOT is_excluded
        AND phase <> 'microbench'
        AND num_devices IS NOT NULL
        AND llm_id IS NOT NULL
        AND ($llm_id::VARCHAR IS NULL OR llm_id = $llm_id::VARCHAR)
        AND ($hardware_id::VARCHAR IS NULL OR hardware_id = $hardware_id::VARCHAR)
        AND ($is_training::BOOLEAN IS NULL OR is_training = $is_training::BOOLEAN)
        AND (rate IS NOT NULL OR status IN ('oom', 'timeout'))
),
defined AS (SELECT DISTINCT llm_id, workload, own_definition AS definition FROM rated WHERE own_definition IS NOT NULL),
splits AS (
    SELECT DISTINCT rated.llm_id, rated.workload, defined.definition, rated.split AS strategy
    FROM rated
    LEFT JOIN defined ON rated.llm_id = defined.llm_id AND rated.workload = defined.workload
        AND coalesce(rated.own_definition, defined.definition) = defined.definition
    WHERE rated.num_devices > 1
),
placed AS (
    SELECT rated.*, splits.strategy, splits.definition
    FROM rated
    JOIN splits USING (llm_id, workload)
    WHERE rated.split IN (splits.strategy, 'one device')
        AND (rated.own_definition IS NULL OR rated.own_definition IS NOT DISTINCT FROM splits.definition)
),
counted AS (
    SELECT
        llm_id, workload, definition, strategy,
        num_devices,
        any_value(llm_name) AS llm_name,
        any_value(source_kind) AS source_kind,
        any_value(is_training) AS is_training,
        any_value(hardware_id) AS hardware_id,
        any_value(hardware_name) AS hardware_name,
        any_value(phase) AS phase,
        any_value(batch) AS batch,
        any_value(tokens) AS tokens,
        any_value(variant) AS variant,
        any_value(source_id) AS source_id,
        median(rate) AS tokens_per_s,
        arg_max(run_id, collected_at) AS run_id,
        CASE WHEN count(rate) > 0 THEN 'ok' ELSE any_value(status) END AS status,
        count(*) AS num_runs
    FROM placed
    GROUP BY ALL
)
SELECT
    counted.*,
    tokens_per_s / max(tokens_per_s) FILTER (WHERE num_devices = 1) OVER same AS speedup,
    speedup / num_devices AS efficiency
FROM counted
WINDOW same AS (PARTITION BY llm_id, workload, definition, strategy)
QUALIFY count(*) OVER same > 1
ORDER BY source_kind, llm_name, workload, definition, strategy, num_devices
