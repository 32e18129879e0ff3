/* The ISAs that an option can name, those of other machines too. */
#ifndef KVF_CLI_ISA_NAMES_H
#define KVF_CLI_ISA_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CLI_ISA_COUNT = 5,
    CLI_ISAS_ALL = 1 << CLI_ISA_COUNT /* in a set: "all", those of them that are here */
};

/* From the plainest to the best. */
const char *cli_isa_name(uint32_t i);

/*
 * Adds the ISA of that name, or all of them, to a set; for an unknown one returns false and
 * says in *reason which there are.
 */
bool cli_isa_find(const char *name, uint32_t *set, char *reason, size_t reason_bytes);

#endif
