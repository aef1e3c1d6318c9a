-- Purpose: shapes of one table of kernels as their source lists them, with what each reached.
-- Grain: one shape; every n-th where there are more than $most (100000 unless given), `num_all` says how many there are.
-- Parameters: $run_id, $most.
SELECT
    kernels.* EXCLUDE (run_id, file_hash),
    flops / nullif(time_s, 0) AS achieved_flops_per_s,
    coalesce(bytes_moved, size_bytes) / nullif(time_s, 0) AS achieved_bytes_per_s,
    roofline_s / nullif(time_s, 0) AS share,
    all_of_them.num_all
FROM kernels, (SELECT count(*) AS num_all FROM kernels WHERE run_id = $run_id::VARCHAR) AS all_of_them
WHERE run_id = $run_id::VARCHAR
    AND kernel_index % (1 + num_all // (1 + coalesce($most::BIGINT, 100000))) = 0
ORDER BY kernel_index
