#include "options.h"
#include "print.h"

int main(int argc, char **argv) {
    static struct table table;
    char text[64];
    while (read_word(stdin, text, sizeof text)) add_word(&table, text);
    sort_words(&table);
    print_table(&table, read_options(argc, argv).least);
    return 0;
}
