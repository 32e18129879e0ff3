/* The table of an ISA: the last include of its file. Parameters: KVF_TABLE, KVF_TABLE_ISA. */
const kvf_cpu_kernels KVF_TABLE = {
    .isa = KVF_TABLE_ISA,
    .attend = attend_item,
    .load_keys = load_keys,
    .score = score_tile_rows,
    .norm = norm_row,
    .pool = pool_row,
    .unpack = unpack_rows,
};
