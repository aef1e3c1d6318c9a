-- Purpose: families of sources whose measured and published rows are not those of their last lint, or were read by other checks.
--   A family is what stands before the / in source ids: tables of one paper are held against one another, files of one tool too.
-- Grain: one family that is due.
-- Parameters: $revision, of the checks and of the engine.
WITH counted AS (
    SELECT
        split_part(source_id, '/', 1) AS family,
        count(*) AS num_runs,
        count(DISTINCT file_hash) AS num_files,
        count(*) FILTER (
            WHERE config_id IN (SELECT config_id FROM runs WHERE source_kind = 'analytical' AND ruleset = 'default')
        ) AS num_twins
    FROM runs
    WHERE source_kind IN ('measured', 'published')
    GROUP BY family
),
scored AS (
    SELECT split_part(source_id, '/', 1) AS family, count(*) AS num_scores
    FROM predictors JOIN predictor_scores USING (predictor_id)
    WHERE source_id IS NOT NULL
    GROUP BY family
)
SELECT
    family,
    coalesce(num_runs, 0) AS num_runs,
    concat_ws(' ', $revision::VARCHAR, coalesce(num_runs, 0), coalesce(num_files, 0), coalesce(num_twins, 0), coalesce(num_scores, 0)) AS state
FROM counted
FULL JOIN scored USING (family)
LEFT JOIN (SELECT family, state AS last_state FROM lints) AS last USING (family)
WHERE last_state IS DISTINCT FROM state
ORDER BY family
