/* 100 kills; test_snapshot_kill_slow.c has 500. */
#include "snapshot_support.h"

int main(int argc, char **argv)
{
    return snap_kill_main(argc, argv, 100);
}
