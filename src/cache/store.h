/* How a store names its files. Internal to cache/ and its tests. */
#ifndef KVF_CACHE_STORE_H
#define KVF_CACHE_STORE_H

#include "kvfold.h"

#define KVF_STORE_DIGITS 16
#define KVF_STORE_SUFFIX ".kvfold"
#define KVF_STORE_NAME_BYTES 40 /* with ".saving" behind it */

/*
 * The name of a session's file: digits of a checksum over the model, the profile, whether
 * there is a grid, and the token ids. Sessions of equal names are told apart by their ids.
 */
void kvf_store_name(const kvf_session *session, char name[KVF_STORE_NAME_BYTES]);

#endif
