// Copyright 2026 The policy_node authors
// SPDX-License-Identifier: Apache-2.0
// Makes the installed middleware do without what rmw_zenoh_cpp does not have; a process loads it with LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#ifndef RMW_NAME
#define RMW_NAME "rmw_zenoh_cpp"
#endif
#define RMW_RET_OK 0
#define RMW_RET_UNSUPPORTED 3
// Of rmw_event_type_t.
#define RMW_EVENT_LIVELINESS_CHANGED 0
#define RMW_EVENT_REQUESTED_DEADLINE_MISSED 1

typedef struct {
  uint64_t sec;
  uint64_t nsec;
} rmw_time_t;

// Python loads the libraries of ROS for itself, so they are found by their names only.
static void * symbol_of(const char * library, const char * name)
{
  return dlsym(dlopen(library, RTLD_LAZY | RTLD_NOLOAD), name);
}

const char * rmw_get_implementation_identifier(void)
{
  return RMW_NAME;
}

int rmw_subscription_event_init(void * event, const void * subscription, int type)
{
  if (type == RMW_EVENT_LIVELINESS_CHANGED || type == RMW_EVENT_REQUESTED_DEADLINE_MISSED) {
    void (* fail)(const char *, const char *, size_t) = symbol_of("librcutils.so", "rcutils_set_error_state");
    fail("provided event_type is not supported by " RMW_NAME, __FILE__, __LINE__);
    return RMW_RET_UNSUPPORTED;
  }
  int (* init)(void *, const void *, int) = symbol_of("librmw_fastrtps_cpp.so", "rmw_subscription_event_init");
  return init(event, subscription, type);
}

int rmw_publisher_wait_for_all_acked(const void * publisher, rmw_time_t timeout)
{
  (void)publisher;
  (void)timeout;
  return RMW_RET_OK;
}
