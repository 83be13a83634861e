#ifndef OPTIONS_H
#define OPTIONS_H
struct options { int least; };
struct options read_options(int argc, char **argv);
#endif
