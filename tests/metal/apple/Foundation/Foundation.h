/* What device_apple.m uses of Foundation: see Metal/Metal.h. */
#ifndef KVF_TEST_FOUNDATION_H
#define KVF_TEST_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef unsigned long NSUInteger;
typedef signed char BOOL;
#define nil ((id)0)

@protocol NSObject
- (id)retain;
- (void)release;
- (id)autorelease;
@end

__attribute__((objc_root_class))
@interface NSObject<NSObject>
+ (id)alloc;
- (id)init;
@end

@interface NSString : NSObject
@property(readonly) const char *UTF8String;
+ (id)stringWithUTF8String:(const char *)text;
@end

@interface NSError : NSObject
@property(readonly) NSString *localizedDescription;
@end

#endif
