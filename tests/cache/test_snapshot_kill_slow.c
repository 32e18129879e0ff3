/* 500 kills; see snapshot_kill.c. */
#include "snapshot_support.h"

int main(int argc, char **argv)
{
    return snap_kill_main(argc, argv, 500);
}
