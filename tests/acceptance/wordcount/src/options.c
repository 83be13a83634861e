#include "options.h"
#include <stdlib.h>
#include <string.h>

struct options read_options(int argc, char **argv) {
    struct options options = {0};
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "-n")) options.least = atoi(argv[i + 1]);
    return options;
}
