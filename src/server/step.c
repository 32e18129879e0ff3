#include "server/step.h"

void kvf_step_run(kvf_model *model, kvf_step_item *items, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        kvf_step_item *item = &items[i];
        item->status =
            kvf_model_forward(model, item->session, item->ids, item->n, NULL, &item->error);
    }
}
