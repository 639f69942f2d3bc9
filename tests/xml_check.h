/* A check that text is well-formed XML, strict about what we write: one root, elements that nest,
 * quoted attributes that stand once, the five entities and character references, no control
 * characters, UTF-8. No DTD, no CDATA, no comments, no namespaces. Pure. */
#ifndef LQ_TESTS_XML_CHECK_H
#define LQ_TESTS_XML_CHECK_H

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "rules/model/pretokenize.h"

enum { XML_DEPTH_MAX = 64, XML_NAME_MAX = 64, XML_ATTRS_MAX = 32 };

struct xml_check {
    const char *at;
    const char *end;
    char open[XML_DEPTH_MAX][XML_NAME_MAX];
    size_t depth;
    size_t elements;
    const char *problem; /* NULL: none */
};

static bool xml_fail(struct xml_check *xml, const char *problem)
{
    xml->problem = xml->problem == NULL ? problem : xml->problem;
    return false;
}

static bool xml_name(struct xml_check *xml, char name[XML_NAME_MAX])
{
    size_t length = 0;
    while (xml->at < xml->end && (isalnum((unsigned char)*xml->at) || strchr("-_:", *xml->at)) &&
           length + 1 < XML_NAME_MAX) {
        name[length++] = *xml->at++;
    }
    name[length] = '\0';
    return length > 0 && isalpha((unsigned char)name[0]) ? true : xml_fail(xml, "bad name");
}

/* Text up to `stop`, which is not taken; '<' never belongs to it. */
static bool xml_chars(struct xml_check *xml, char stop)
{
    static const char *const entities[] = {"&lt;", "&gt;", "&amp;", "&quot;", "&apos;"};
    while (xml->at < xml->end && *xml->at != stop) {
        unsigned char c = (unsigned char)*xml->at;
        size_t length = lq_utf8_length(xml->at, (size_t)(xml->end - xml->at));
        if (length == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == '<') {
            return xml_fail(xml, c == '<' ? "'<' in text" : "a byte that XML has not");
        }
        bool is_known = c != '&';
        for (size_t i = 0; i < 5; i++) {
            size_t size = strlen(entities[i]);
            is_known = is_known || ((size_t)(xml->end - xml->at) >= size &&
                                    memcmp(xml->at, entities[i], size) == 0);
        }
        if (!is_known) {
            return xml_fail(xml, "unknown entity");
        }
        xml->at += length;
    }
    return true;
}

static void xml_space(struct xml_check *xml)
{
    while (xml->at < xml->end && strchr(" \n\t", *xml->at) != NULL && *xml->at != '\0') {
        xml->at++;
    }
}

static bool xml_take(struct xml_check *xml, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(xml->end - xml->at) < length || memcmp(xml->at, word, length) != 0) {
        return false;
    }
    xml->at += length;
    return true;
}

static bool xml_attrs(struct xml_check *xml)
{
    char names[XML_ATTRS_MAX][XML_NAME_MAX];
    size_t count = 0;
    for (;;) {
        const char *before = xml->at;
        xml_space(xml);
        if (xml->at >= xml->end || *xml->at == '>' || *xml->at == '/' || *xml->at == '?') {
            return true;
        }
        if (before == xml->at || count == XML_ATTRS_MAX) {
            return xml_fail(xml, "no space between attributes, or too many");
        }
        if (!xml_name(xml, names[count]) || !xml_take(xml, "=\"") || !xml_chars(xml, '"') ||
            !xml_take(xml, "\"")) {
            return xml_fail(xml, "bad attribute");
        }
        for (size_t i = 0; i < count; i++) {
            if (strcmp(names[i], names[count]) == 0) {
                return xml_fail(xml, "an attribute stands twice");
            }
        }
        count++;
    }
}

static bool xml_element(struct xml_check *xml)
{
    char name[XML_NAME_MAX];
    if (xml_take(xml, "/")) {
        if (!xml_name(xml, name) || !xml_take(xml, ">")) {
            return xml_fail(xml, "bad end tag");
        }
        return xml->depth > 0 && strcmp(xml->open[--xml->depth], name) == 0
                   ? true
                   : xml_fail(xml, "an end tag without its start");
    }
    if (xml->depth == 0 && xml->elements > 0) {
        return xml_fail(xml, "two roots");
    }
    if (xml->depth == XML_DEPTH_MAX || !xml_name(xml, xml->open[xml->depth]) || !xml_attrs(xml)) {
        return xml_fail(xml, "bad start tag");
    }
    xml->elements++;
    if (xml_take(xml, "/>")) {
        return true;
    }
    xml->depth++;
    return xml_take(xml, ">") ? true : xml_fail(xml, "a start tag without end");
}

/* NULL when the text is well-formed, else what is wrong. *elements may be NULL. */
static const char *xml_check(const void *data, size_t size_bytes, size_t *elements)
{
    struct xml_check xml = {.at = data, .end = (const char *)data + size_bytes};
    if (xml_take(&xml, "<?xml") && (!xml_attrs(&xml) || !xml_take(&xml, "?>"))) {
        return "bad declaration";
    }
    while (xml.problem == NULL && xml.at < xml.end) {
        const char *before = xml.at;
        if (xml_take(&xml, "<")) {
            (void)xml_element(&xml);
        } else if (xml.depth > 0) {
            (void)xml_chars(&xml, '<');
        } else {
            xml_space(&xml);
        }
        if (xml.at == before && xml.problem == NULL) {
            return "text outside of the root";
        }
    }
    if (elements != NULL) {
        *elements = xml.elements;
    }
    return xml.problem != NULL ? xml.problem
           : xml.depth > 0     ? "an element is not closed"
           : xml.elements == 0 ? "no element"
                               : NULL;
}

#endif
