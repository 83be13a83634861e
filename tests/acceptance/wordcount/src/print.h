#include "count.h"
void print_table(const struct table *table, int least);
